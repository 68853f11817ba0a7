"""SpeaQ: groupwise query specialization and quality-aware multi-assignment for scene graph generation."""

"""A table of learning curves: many settings of SpeaQ, trained once, on which searches are judged in seconds."""

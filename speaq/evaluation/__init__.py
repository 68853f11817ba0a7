"""Counting: recall, mean recall, detection AP, their intervals."""

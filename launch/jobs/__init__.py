"""What a command of the search does from its beginning to its end."""

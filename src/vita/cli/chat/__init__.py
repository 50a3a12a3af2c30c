"""`vita chat`: a conversation in the terminal."""

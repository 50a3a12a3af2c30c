"""Speech: answers that are heard while they are written, and voice activity of what is said."""

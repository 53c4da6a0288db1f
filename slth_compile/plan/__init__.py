"""What will be drawn, fixed before the first random word."""

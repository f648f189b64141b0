"""One journal, two engines."""

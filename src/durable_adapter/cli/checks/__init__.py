"""What `doctor` checks: one function a subject. Each says what it found, how bad that is, and the cure."""

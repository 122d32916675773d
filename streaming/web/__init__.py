"""What faces the user."""

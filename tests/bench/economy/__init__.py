"""What searches cost, and what they find for it."""

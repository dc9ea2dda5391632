"""What a batch is, and the quantities that losses are made of."""

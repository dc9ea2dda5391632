"""From the scores of independent runs to what may be said about them."""

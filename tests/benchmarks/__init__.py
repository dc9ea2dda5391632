"""Speed, as ratios against something run beside it in the same process. Not run by the tests."""

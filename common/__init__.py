"""What the three programs share besides the protobuf package. It knows none of them."""

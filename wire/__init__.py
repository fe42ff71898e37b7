"""What more than one program needs of the wire beyond the generated code. It imports none of them."""

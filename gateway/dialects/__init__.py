"""The forms of other APIs, whose clients call `/v1`: requests, responses, errors. Pure, without I/O."""

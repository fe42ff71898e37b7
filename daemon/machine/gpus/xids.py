"""Owns which Xid errors mean that a GPU itself is at fault. It must not know how they are read.

An Xid is a driver's error report; most are the fault of the program that ran, and the GPU goes on.
The meanings are those of NVIDIA's "XID Errors" (GPU Deployment and Management documentation); what
its own Kubernetes device plugin passes over as the application's (13, 31, 43, 45, 68, 109) is not here.
"""

# An error that memory or its ECC could not repair: what was computed may be wrong.
# In this order: two bits; row not remapped; contained; uncontained; unrecovered.
_MEMORY = frozenset({48, 64, 94, 95, 140})
# The GPU, its bus or its link is gone, or does not answer.
# In this order: halted; NVLink; off the bus; security; link; not initialized.
_DEVICE = frozenset({62, 74, 79, 110, 136, 143})
# The firmware that runs the GPU does not answer or gave up: only a reset helps.
# In this order: breakpoint; call timed out; error.
_FIRMWARE = frozenset({61, 119, 120})

FATAL_XIDS = _MEMORY | _DEVICE | _FIRMWARE
"""After one of these a GPU gets no more work."""

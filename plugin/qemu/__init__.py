"""The lab: kernels, the guest agent and QEMU itself. The only package that talks QMP."""

"""The guest drivers themselves, where the kernel has no configfs-tsm: ioctl devices, and quotes over vsock."""

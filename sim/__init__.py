"""The software model of KVM-HV's nested MMU: the reference the kernel is compared with."""

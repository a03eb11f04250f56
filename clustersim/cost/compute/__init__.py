"""How long kernels take alone: matrix products, attention, memory-bound passes."""

from clustersim.cost.compute.pricing import Bound, KernelCosts, kernel_s

__all__ = ["Bound", "KernelCosts", "kernel_s"]

"""Sampling kernels: loops of one step at a time, compiled by numba with LLVM's vector instructions."""

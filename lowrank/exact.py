"""Closed forms and convex twins of what training reaches. Imports nothing of ours, so that it stays independent of what
it checks."""

from .convex import TwoLayerOptimum, two_layer_relu_correlation, two_layer_relu_program, two_layer_relu_threshold

__all__ = ["TwoLayerOptimum", "two_layer_relu_correlation", "two_layer_relu_program", "two_layer_relu_threshold"]

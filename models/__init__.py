"""The networks: arrays and tensors in, arrays and tensors out; no file is read."""

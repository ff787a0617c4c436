"""A network as a program of torch.export or as ONNX: made, written, read again and held against the network."""

ONNX, PT2 = ".onnx", ".pt2"
SUFFIXES = (ONNX, PT2)

"""The FPGA target: from a graph of fixed-point numbers to HLS C++, and to Verilog that shows that it is right.

`layers` turns fused groups into a scheduled program of `expressions` (`program` says what that is), which `printing`
writes in C++, C and Verilog.
"""

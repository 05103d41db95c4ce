"""The FPGA target: from a graph of fixed-point numbers to HLS C++, and to Verilog that shows that it is right.

`layers` turns fused groups into a scheduled `program` of `expressions`, `exploration` chooses which, `hardware` says
what it is in gates and cycles, `printing` writes it in C++, C and Verilog, `simulation` runs what was written. `build`
makes a `project` of all that; `verification` is what `tensorc verify` does with one.
"""

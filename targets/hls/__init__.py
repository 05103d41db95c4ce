"""FPGA targets: HLS C++, portable C99 and Verilog from one scheduled program, with what they cost on a part."""

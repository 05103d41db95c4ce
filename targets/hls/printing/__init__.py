"""The scheduled program as text: C++ for HLS, portable C, Verilog."""

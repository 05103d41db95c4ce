"""A project run and checked without vendor tools: g++, fibers, Icarus or Verilator, yosys, and a lint of pragmas."""

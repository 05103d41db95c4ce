"""What a program is as hardware: operations in pipeline stages, its cycles, and what it takes of a part."""

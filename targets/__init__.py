"""Where compiled models run. Each target is a package of its own, found by the entry-point group `tensorc.targets`."""

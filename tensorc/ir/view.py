"""The graph as networkx sees it, for algorithms that networkx has: orders, dominators, paths."""

from __future__ import annotations

import networkx as nx

from tensorc.ir.graph import Graph, Node

#: The vertex behind the graph's outputs: every path ends there, so that post-dominators exist.
EXIT = "exit"


def to_networkx(graph: Graph) -> nx.DiGraph:
    """Vertices are nodes (and `EXIT`); an edge runs from a node to each node that reads a result of it."""
    view = nx.DiGraph()
    view.add_node(EXIT)
    for node in graph.nodes:
        view.add_node(node)
        for value in node.outputs:
            view.add_edges_from((node, user, {"value": value}) for user in value.users)
            if value in graph.outputs:
                view.add_edge(node, EXIT, value=value)
    return view


def post_dominators(graph: Graph) -> dict[Node, Node | str]:
    """For each node the nearest one that every path from it to an output passes (`EXIT` when none does)."""
    view = to_networkx(graph).reverse(copy=False)
    found = nx.immediate_dominators(view, EXIT)
    return {node: found[node] for node in graph.nodes if node in found}


def longest_path(graph: Graph) -> int:
    """Number of nodes on the longest chain: a bound on how far the graph's nodes must wait for each other."""
    view = to_networkx(graph)
    view.remove_node(EXIT)
    return len(nx.dag_longest_path(view))

"""quantsparse as a node of ComfyUI: put this folder into custom_nodes, and the quantsparse package where its Python finds it.

The node makes a clip with a model of any kind that the runtime reads, on the Vulkan device of your choice, and hands its
frames to the other nodes. ComfyUI's progress bar shows how far it is; its Cancel button stops it.
"""
from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

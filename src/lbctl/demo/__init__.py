"""The demonstration: a private network in which lbctl does its main job before the user's eyes."""

from lbctl.demo.world import CLIENT_ADDRESS, HOST_ADDRESS, Run, World, checked_intent, demo_intent, private

__all__ = ["CLIENT_ADDRESS", "HOST_ADDRESS", "Run", "World", "checked_intent", "demo_intent", "private"]

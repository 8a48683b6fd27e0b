"""Audits: does a training function resume exactly, and accumulate as it should?"""

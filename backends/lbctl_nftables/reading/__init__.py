"""Existing rules of nft → services with the exact share of each endpoint, and what is wrong with them.

text ─words─▶ words ─┐
                     ├─grammar, document─▶ tables, chains, rules ─lower─▶ FamilyProgram ─Analyser─▶ Analysis
JSON ─listed─▶ words ┘
"""

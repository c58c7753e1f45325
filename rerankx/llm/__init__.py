"""Language models as rerankers: what they are asked, who is asked, and how a reply is read."""

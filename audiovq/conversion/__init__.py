"""Voice conversion with a codec that codes pitch apart: the codes stay, speaker vector and pitch are exchanged."""

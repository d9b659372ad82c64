"""Records of finished studies, and the tables, figures and pages made from them."""

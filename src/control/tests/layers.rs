//! The two layers of the project-wide place against a model.

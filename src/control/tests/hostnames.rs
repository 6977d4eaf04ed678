//! Hostname certificates and associations.

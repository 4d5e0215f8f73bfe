//! Branches whose servers are containers.

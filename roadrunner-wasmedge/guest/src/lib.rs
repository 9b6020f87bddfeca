//! What the author of a Roadrunner function depends on

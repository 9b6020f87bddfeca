//! Roadrunner in one process: pages of linear memory copied and exchanged

//! nnU-Net's documents, with nnU-Net's keys verbatim.

"""What the ledger says, asked: drift and the features it is measured on; pure folds, without I/O or a clock."""

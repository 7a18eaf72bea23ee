"""Any swapper, measured on fixed pairs of people never trained on."""

"""Bits to samples and back: framing, OFDM, synchronisation, equaliser, and the measured SNR."""

"""Who made a bundle and who accepted its verdict: Ed25519 signatures, and the folder of keys that a device trusts."""

"""What a gateway and a worker prove to each other with the secret that they share.

A request passes through Temporal, where others may read it, or write one of their own. So a gateway signs where its
answer goes, for this call and for a while; and a worker proves that it has the secret before a gateway believes what it
sends. Neither signature says anything about the secret, and each is good for one purpose.
"""

import hmac
from hashlib import sha256

from paymaster.messages.streams import StreamTo

PROOF_HEADER = "x-paymaster-proof"
_OF_GATEWAY = "paymaster-stream-to-1"
_OF_WORKER = "paymaster-stream-from-worker-1"


def signed(secret: str, *, address: str, token: str, call_id: str, expires_at_ms: int, keeps: bool = False) -> StreamTo:
    """Where the answer of this call goes. `call_id` is that of all its generations."""
    signature = _hmac(secret, _OF_GATEWAY, address, token, call_id, str(expires_at_ms), str(keeps))
    return StreamTo(address=address, token=token, expires_at_ms=expires_at_ms, keeps=keeps, signature=signature)


def is_genuine(stream_to: StreamTo, call_id: str, secret: str) -> bool:
    """Whether a gateway that has the secret wrote this for that call."""
    expected = signed(
        secret,
        address=stream_to.address,
        token=stream_to.token,
        call_id=call_id,
        expires_at_ms=stream_to.expires_at_ms,
        keeps=stream_to.keeps,
    )
    return hmac.compare_digest(expected.signature, stream_to.signature)


def proof_of_worker(secret: str, token: str) -> str:
    """What a worker says to be let into the stream of this token."""
    return _hmac(secret, _OF_WORKER, token)


def is_worker(proof: str, secret: str, token: str) -> bool:
    return hmac.compare_digest(proof.encode(errors="replace"), proof_of_worker(secret, token).encode())


def _hmac(secret: str, *parts: str) -> str:
    # With their lengths, so that no other parts make the same text: a call's id may have anything in it.
    text = "\n".join(f"{len(part)}:{part}" for part in parts)
    return hmac.new(secret.encode(), text.encode(errors="surrogatepass"), sha256).hexdigest()

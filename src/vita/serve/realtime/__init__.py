"""OpenAI's Realtime API over a WebSocket: spoken conversation with turns, barge-in and camera frames."""

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Answer } from "../../examples/answer.jsx";
import { Relay } from "../../static/client.js";

const relay = new Relay(location.origin);
createRoot(document.getElementById("root")).render(<StrictMode><Answer relay={relay} question="Hi" /></StrictMode>);

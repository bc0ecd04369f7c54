// Reads paths, each a line of JSON, and says of each what Haraka makes of it: null, or the local part and the domain.
"use strict";
const readline = require("readline");
const { Address } = require("address-rfc2821");

function meaning(path) {
    try {
        const address = new Address(path);
        return [address.user, address.original_host ?? null];
    } catch {
        return null;
    }
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
    process.stdout.write(JSON.stringify(meaning(JSON.parse(line))) + "\n");
});

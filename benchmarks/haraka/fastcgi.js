'use strict';
// A Haraka plugin that asks php-fpm: RCPT is a GET, the mail a POST, over as many kept connections as PHP has workers.
// A request is one write; waiting requests are served first come, first served.

const net = require('node:net');

const { BENCH_SOCKET, BENCH_VALIDATE, BENCH_SAVE } = process.env;
const CONNECTIONS = 4;
const CONTENT_OCTETS = 65528;
const BEGIN = Buffer.from([1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]);
const END_STDIN = Buffer.from([1, 5, 0, 1, 0, 0, 0, 0]);
const END_REQUEST = 3;
const STDOUT = 6;

function header(type, length) {
    return Buffer.from([1, type, 0, 1, length >> 8, length & 255, 0, 0]);
}

function pairs(params) {
    const parts = [];
    for (const [name, value] of Object.entries(params)) {
        const size = Buffer.byteLength(value);
        const sizes = Buffer.alloc(size < 128 ? 2 : 5);
        sizes[0] = name.length;
        if (size < 128) sizes[1] = size;
        else sizes.writeUInt32BE((size | 0x80000000) >>> 0, 1);
        parts.push(sizes, Buffer.from(name + value));
    }
    return Buffer.concat(parts);
}

function request(params, body) {
    const encoded = pairs({ SERVER_PROTOCOL: 'HTTP/1.1', GATEWAY_INTERFACE: 'CGI/1.1', REMOTE_ADDR: '127.0.0.1', ...params });
    const parts = [BEGIN, header(4, encoded.length), encoded, header(4, 0)];
    for (let at = 0; at < body.length; at += CONTENT_OCTETS) {
        const piece = body.subarray(at, at + CONTENT_OCTETS);
        parts.push(header(5, piece.length), piece);
    }
    parts.push(END_STDIN);
    return Buffer.concat(parts);
}

// What the script printed, or null while the response is not all there.
function answer(received) {
    let output = '';
    let at = 0;
    while (received.length >= at + 8) {
        const end = at + 8 + received.readUInt16BE(at + 4);
        if (received.length < end + received[at + 6]) return null;
        if (received[at + 1] === STDOUT) output += received.toString('latin1', at + 8, end);
        if (received[at + 1] === END_REQUEST) return output.slice(output.indexOf('\r\n\r\n') + 4).trim();
        at = end + received[at + 6];
    }
    return null;
}

class Pool {
    constructor() {
        this.idle = [];
        this.open = 0;
        this.waiting = [];
    }

    call(octets, done) {
        if (this.idle.length) this.send(this.idle.pop(), octets, done);
        else if (this.open < CONNECTIONS) this.send(this.connect(), octets, done);
        else this.waiting.push([octets, done]);
    }

    connect() {
        this.open += 1;
        const socket = net.createConnection(BENCH_SOCKET);
        socket.on('data', (data) => {
            socket.received = socket.received.length ? Buffer.concat([socket.received, data]) : data;
            const text = answer(socket.received);
            if (text === null) return;
            const done = socket.done;
            if (this.waiting.length) this.send(socket, ...this.waiting.shift());
            else this.idle.push(socket);
            done(text);
        });
        socket.on('error', () => {});
        socket.on('close', () => {
            this.open -= 1;
            this.idle = this.idle.filter((other) => other !== socket);
            socket.done?.('');
        });
        return socket;
    }

    send(socket, octets, done) {
        socket.received = Buffer.alloc(0);
        socket.done = done;
        socket.write(octets);
    }
}

const pool = new Pool();

// As in the other programs: only what PHP would read otherwise is escaped.
const ESCAPES = { '%': '%25', '+': '%2B', '&': '%26', ';': '%3B', ' ': '+' };
function value(text) {
    return text.replace(/[%+&; ]/g, (octet) => ESCAPES[octet]);
}

exports.register = function () {
    this.register_hook('rcpt', 'validate');
    this.register_hook('queue', 'save');
};

exports.validate = function (next, connection, params) {
    const sender = connection.transaction.mail_from.address();
    const query = `mail_from=${value(sender)}&rcpt_to=${value(params[0].address())}`;
    const octets = request(
        { SCRIPT_FILENAME: BENCH_VALIDATE, REQUEST_METHOD: 'GET', QUERY_STRING: query },
        Buffer.alloc(0),
    );
    pool.call(octets, (text) => next(text === 'PASSED' ? OK : DENY));
};

exports.save = function (next, connection) {
    const { transaction } = connection;
    transaction.message_stream.get_data((data) => {
        const body = value(data.toString('latin1').replace(/\r\n/g, '\n'));
        const recipients = transaction.rcpt_to.map((path, number) => `rcpt_to_${number}=${value(path.address())}`);
        const rest = `&helo=${value(connection.hello.host)}&mail_from=${value(transaction.mail_from.address())}`;
        const form = Buffer.from(`body=${body}${rest}&${recipients.join('&')}&remote_ip=127.0.0.1&tls_on=false`, 'latin1');
        const octets = request(
            {
                SCRIPT_FILENAME: BENCH_SAVE,
                REQUEST_METHOD: 'POST',
                CONTENT_TYPE: 'application/x-www-form-urlencoded',
                CONTENT_LENGTH: String(form.length),
            },
            form,
        );
        pool.call(octets, (text) => next(text === 'SAVED' ? OK : DENYSOFT));
    });
};
